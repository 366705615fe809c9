"""What an unmodified curl tries inside the namespaces at every step, and what the result must be."""

from __future__ import annotations

import subprocess
from typing import Literal

from msgspec import Struct

from agent.demo.database import PORT as DATABASE_PORT
from agent.demo.plan import Host, Site
from agent.demo.steps import Step
from agent.demo.surroundings import environment
from nodeproxy.capture import Ports

TUNNEL = Ports().tunnel
STORE = "http://bookstore.bookstore:14001/books-bought"
WAREHOUSE = "http://bookwarehouse.bookwarehouse:14001/restock-books"
DATABASE = (
    f"http://mysql.bookwarehouse:{DATABASE_PORT}/"  # not HTTP: --http0.9 makes curl print whatever the server sends
)
DISGUISE = ("--user-agent", "Go-http-client/1.1", "--header", "client-app: bookbuyer")  # what the buyer claims to be

# answered: 200. greeted: the server's own first bytes, not HTTP. denied: 403 with the reason. refused: nothing from the
# server. closed: no HTTP at all, or a refusal with the reason. unreachable: a 5xx of the mesh with the reason.
Wanted = Literal["answered", "greeted", "denied", "refused", "closed", "unreachable"]


class Trial(Struct, frozen=True):
    who: str
    whom: str
    words: tuple[str, ...]  # the arguments of curl
    wanted: Wanted

    def __str__(self) -> str:
        return f"{self.who} -> {self.whom}"


def trials(step: Step, hosts: dict[str, Host], ipv6: bool) -> list[Trial]:
    """Return the trials of one step. A client outside the mesh is always refused; the rest depends on the step."""
    store = hosts["bookstore-v1"]
    addresses = [store.address4, *([f"[{store.address6}]"] if ipv6 else [])]
    direct = [f"http://{address}:14001/books-bought" for address in addresses]
    found = [Trial("outsider", url, (*DISGUISE, url), "refused") for url in direct]
    for who, expectation in (("bookbuyer", step.bookbuyer), ("bookthief", step.bookthief)):
        wanted: Wanted = "answered" if expectation == "rises" else "denied"
        found += [Trial(who, url, (*DISGUISE, url), wanted) for url in (STORE, *direct)]
        found.append(Trial(who, "mysql", ("--http0.9", DATABASE), "greeted" if step.permissive else "refused"))
        if not step.permissive:
            found.append(Trial(who, WAREHOUSE, ("--data", "1", WAREHOUSE), "denied"))
            # The route asks for the buyer's headers, so that even the buyer is denied without them.
            found.append(Trial(who, f"{STORE} without its headers", (STORE,), "denied"))
    if store.site != hosts["outsider"].site:
        # Between nodes there is only mTLS. --insecure: curl then checks no certificate, and it has none of its own.
        doors = [*addresses, Site(store.site).link4]
        found += [
            Trial("outsider", f"{scheme}://{door}:{TUNNEL}/", ("--insecure", f"{scheme}://{door}:{TUNNEL}/"), "closed")
            for door in doors
            for scheme in ("http", "https")
        ]
    return found


def crossing(up: bool) -> Trial:
    """Return the buyer's call to bookstore-v1, which crosses the link between two nodes."""
    return Trial("bookbuyer", STORE, (*DISGUISE, STORE), "answered" if up else "unreachable")


def attempt(trial: Trial, namespace: str) -> str:
    """Run curl in `namespace`. Return what went wrong; "" when the result is right."""
    options = ("curl", "--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "5", "--output", "-")
    command = ["ip", "netns", "exec", namespace, *options, *trial.words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=environment())
    return judge(trial, done.stdout.decode("latin-1"), done.stderr.decode("latin-1").strip())


def judge(trial: Trial, output: str, error: str) -> str:
    """Compare `output` (head and body, as curl printed them) with what `trial` wants; "" when they agree."""
    head = output.partition("\r\n\r\n")[0].lower()
    status = head.split(" ")[1] if head.startswith("http/") and " " in head else ""
    got = f"got {status or (f'{len(output)} bytes' if output else 'no answer')}" + (f" ({error})" if error else "")
    reason = "\r\nx-edgemesh-reason:" in head
    match trial.wanted:
        case "answered":
            return "" if status == "200" else f"expected 200, {got}"
        case "greeted":
            return "" if output and not status else f"expected the server's greeting, {got}"
        case "denied":
            return "" if status == "403" and reason else f"expected 403 with x-edgemesh-reason, {got}"
        case "refused":
            return "" if status == "403" or not output else f"expected a refusal, {got}"
        case "closed":
            return "" if not output or (status.startswith("4") and reason) else f"expected a closed door, {got}"
        case "unreachable":
            return "" if status.startswith("5") and reason else f"expected 5xx with x-edgemesh-reason, {got}"
