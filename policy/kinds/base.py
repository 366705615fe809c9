"""What the shapes of all kinds share: metadata, strict and lax objects, ports, names."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Metadata(Struct, frozen=True, rename="camel"):
    """The fields of an object's `metadata` that edgemesh reads; it ignores other fields."""

    name: str = ""  # unique for its kind and namespace
    namespace: str = ""  # without it: default
    labels: dict[str, str] | None = None  # matched by selectors
    annotations: dict[str, str] | None = None  # settings of an object that its kind has no field for
    creation_timestamp: str | None = None  # RFC 3339; of two that exclude each other, the older one is in force
    deletion_timestamp: str | None = None  # RFC 3339; a Pod that has one is ending, and gets no new calls
    generation: int = 0  # of an object of the Gateway API in a cluster: which version of its spec its status is about
    uid: str = ""  # of a Pod: tells it from another one that had its name before, and names its cgroup


class Strict(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of a kind of SMI, OSM or edgemesh: an unknown field is a typing error."""


class Lax(Struct, frozen=True, rename="camel"):
    """A part of a kind of Kubernetes. Its many fields that edgemesh does not use are ignored."""


Port = Annotated[int, Meta(ge=1, le=65535)]
PortNumber = Annotated[int, Meta(ge=0, le=65535)]
Name = Annotated[str, Meta(min_length=1)]
# An empty list is not the same as no list: in SMI, an omitted list means everything, and a list that became empty by
# mistake must not mean that.
NOT_EMPTY = Meta(min_length=1)
