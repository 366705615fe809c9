"""What is known of an object, and what is said of a certificate's dates."""

import pytest

from agent.gateway.content import Followed, Ref, dated
from nodeproxy.tls.certificates import ServerCertificate

DAY = 86400.0


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [(-1, 90, ""), (-20, 3, "ends in 3.0 days"), (-0.1, 0.9, ""), (-20, -1, "has ended"), (1, 20, "not valid yet")],
)
def test_dates_are_told(begins, ends, said):
    made = ServerCertificate("shop/tls", (), b"", b"", 1e9 + begins * DAY, 1e9 + ends * DAY)
    assert (said in dated(made, 1e9)) if said else dated(made, 1e9) == ""


def test_an_object_is_named_as_kubernetes_names_it():
    assert str(Ref("Secret", "shop", "tls")) == "Secret shop/tls"


def test_content_is_not_shown():
    assert "secret" not in repr(Followed({"tls.key": b"secret"}, ""))
