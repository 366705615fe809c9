"""How an application is served over the control socket."""

from __future__ import annotations

import threading

import pytest

from agent.demo.application import Settings
from agent.demo.bookstore import Bookstore
from agent.demo.servers import ControlServer, ask


def test_counters_are_read_over_the_control_socket(tmp_path):
    store = Bookstore(Settings())
    store.sold = 5
    store.tally.record(403)
    server = ControlServer(str(tmp_path / "store.sock"), store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        assert ask(tmp_path / "store.sock", "/raw") == {"booksSold": 5}
        assert ask(tmp_path / "store.sock", "/calls") == {
            "calls": 1,
            "refused": 1,
            "failed": 0,
            "last": "403 Forbidden",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(OSError, match=r"refused|No such file"):
        ask(tmp_path / "store.sock", "/raw")
