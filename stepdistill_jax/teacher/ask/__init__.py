"""Asking a live teacher, so that nothing is paid twice and nothing lost.

    spec.py        what a run is asked to do
    rows.py        the rows to ask about, as a stream
    requests.py    a row, a prompt and sampling settings as one request
    store.py       the teacher cache while it grows
    locking.py, lines.py   one writer at a time; what is written
    plan.py        which requests are missing
    client.py      one request to an OpenAI-compatible server
    adaptations.py the request in the form that the server takes
    responses.py   what the server's answer says
    limits.py      rate, retries, circuit breaker, budget
    retries.py     many requests at once
    worker.py      the process that holds the connections
    command.py     `stepdistill teacher collect`: starts and watches a worker
    batch.py       the same requests as OpenAI batch files
    offline.py     the same requests through vLLM's offline engine
    cost.py        tokens and dollars, before and while they are spent
"""
