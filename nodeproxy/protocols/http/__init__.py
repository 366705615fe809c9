"""HTTP, one request end to end.

room.py        the handlers of a connection in either version: exchanges one after the other or side by side
exchange.py    one connection or stream of a caller: its requests in sequence, and its loans to the fast path
call.py        one request: deadline, decision, filters, retry, attempt, response, record
filters.py     what filters of a rule are, the table of them, and how they act
change_target.py  filters: another path or Host; a redirect
change_fields.py  filters: set, add and remove fields of requests and responses
cors.py        filter: which origins' pages may call, for browsers
fault.py       filters: calls that are late or fail; an answer in the place of the server
sign.py        filters: requests are signed, or refused without a signature
ext_auth.py    filter: a Service is asked whether a request may pass
user.py        filter: Python of this node
mirror.py      filter: copies of requests for other Services
aside.py       requests that filters make beside a caller's own, as the caller
attempt.py     the decision, and the server connection that it leads to (another endpoint if one does not answer)
bounded.py     what bounds a request beside policy: rates, connections, a circuit breaker
retries.py     when a request is attempted again: after which failures, how often, with which body
upload.py      a request body that is still arriving, sent to the server while the first task waits for the response
interfaces.py  caller and server, for either version; what a loan to the fast path returns
http1.py       a caller that speaks HTTP/1.1
http2.py       both sides over HTTP/2
deadline.py    what a connection waits for, and until when
"""
