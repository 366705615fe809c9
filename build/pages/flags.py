"""docs/reference/flags.md: every refusal and failure of edgemesh, from the table of flags."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from nodeproxy.errors import FLAGS
from pages import HEAD
from policy.authz import DENIALS

INTRODUCTION = """# Refusals and failures

A refused or failed call has one flag. It is in the field `flag` of the [access log](access-log.md), in the label `flag` of the
[metrics](metrics.md) and in the header `x-edgemesh-reason` of the response. A flag never changes its meaning. For the flag `denied` the
header and the label `reason` of `edgemesh_denials_total` say [why policy denied the call](#why-a-call-is-denied) instead.

An HTTP caller gets the status below. A gRPC caller gets the matching `grpc-status`. Any other connection is closed.
The header `x-edgemesh-request` is the id of the refusal: `edgemesh explain --request ID`, on a node that the call passed, says
[who refused and why](../howto/who-refused-me.md). For most flags the caller is told the detail too. Where the detail names ports,
endpoints, nodes or certificates it is *for operators only*: it is in the record, and the caller gets the flag, its meaning and the id.
"""


def pages() -> Mapping[str, str]:
    text = [HEAD + INTRODUCTION]
    text.append("| flag | status | meaning |\n|---|---|---|")
    text.extend(f"| [`{name}`](#{name}) | {flag.status} | {flag.meaning} |" for name, flag in FLAGS.items())
    for name, flag in FLAGS.items():
        status = "Client Closed Request" if flag.status == 499 else HTTPStatus(flag.status).phrase
        text.append(f"\n## {name}\n\n{flag.status} {status}: {flag.meaning}.\n")
        if flag.hint:
            text.append(f"**What to do:** {flag.hint}{'' if flag.hint.endswith('?') else '.'}\n")
        text.append("The detail is for operators only." if flag.private else "The caller is told the detail.")
    text.append("\n## Why a call is denied\n\n| reason | meaning |\n|---|---|")
    text.extend(f"| `{reason}` | {meaning} |" for reason, meaning in DENIALS.items())
    return {"reference/flags.md": "\n".join(text) + "\n"}
