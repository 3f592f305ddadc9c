"""`rocketqa serve`: a pipeline as a service, with a page to ask on."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer

#: Holds the bearer token, where a command line would show it to everyone on the machine.
TOKEN_VARIABLE = "ROCKETQA_SERVE_TOKEN"

#: Seconds that requests have to end after the service was told to stop.
GRACE = 30


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    feedback: Path | None = None,
    max_question: int = 1_000,
    max_body: int = 65_536,
    timeout: float = 60.0,
    batch_size: int = 32,
    batch_wait: float = 5.0,
) -> None:
    """Serve a pipeline: a page to ask on, and the same as a REST service through hayhooks.

    FOLDER holds a pipeline.yaml, as `rocketqa demo` and `rocketqa pipeline` write it. Questions are POSTed to /ask/run
    as {"question": "..."}, with "filters" (Haystack's) and "top_k" if wanted. Also there: /feedback, /fields, /health,
    /metrics (Prometheus), /openapi.json. Questions that come in together are encoded together. Ctrl-C or SIGTERM ends
    the service when the questions that it has are answered, after 30 seconds at most. It needs the extra serve.

    Args:
        folder: The folder with pipeline.yaml.
        host: The address to listen on. Others than this machine reach 0.0.0.0; give it a token, and TLS in front.
        port: The port; 0 takes a free one.
        token: What callers must send as `Authorization: Bearer TOKEN`. The environment variable ROCKETQA_SERVE_TOKEN
            does the same without showing it in the list of processes.
        feedback: The file that thumbs-up and -down are appended to, as training groups; by default feedback.jsonl in
            FOLDER.
        max_question: Longest question in characters.
        max_body: Largest request body in bytes.
        timeout: Seconds after which a question is given up.
        batch_size: Questions that are encoded together at most; 1 encodes one by one.
        batch_wait: Milliseconds that a question waits for others to be encoded with.
    """
    try:
        import uvicorn

        from rocketqa_haystack.serving.app import ServiceSettings, make_app
        from rocketqa_haystack.serving.guard import LOOPBACK
        from rocketqa_haystack.serving.metrics import Metrics
    except ImportError as error:
        raise ImportError(f"{error}; serving needs pip install 'rocketqa-haystack[serve]'") from error
    from rocketqa_haystack.data.feedback import FeedbackFile
    from rocketqa_haystack.pipelines import document_stores
    from rocketqa_haystack.serving.asking import AskingPipeline
    from rocketqa_haystack.serving.batching import BatchSettings

    if not 0 <= port <= 65_535:
        raise ValueError(f"a port is a number up to 65535, but got {port}")
    local = host in LOOPBACK
    token = token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
    settings = ServiceSettings(
        token=token and token.strip(),  # a file's last line break is no part of it
        hosts=frozenset(LOOPBACK) if local else None,
        max_question=max_question,
        max_body=max_body,
        timeout=timeout,
    )
    metrics = Metrics()
    batches = BatchSettings(size=batch_size, wait=batch_wait / 1000, observe=metrics.batch)
    if not local and settings.token is None:
        print(f"Warning: everyone who reaches {host} can ask; --token or {TOKEN_VARIABLE} asks for a token", flush=True)
    with _listener(host, port) as listener:
        print(f"Loading {folder} ...", flush=True)
        asking = AskingPipeline(folder, batches)
        print(f"{asking.documents:,} documents", flush=True)
        if not asking.documents and any(document_stores(asking.pipeline)):
            print("Warning: the document store is empty, so that nothing will be found", flush=True)
        app = make_app(asking, FeedbackFile(feedback or folder / "feedback.jsonl"), metrics, settings)
        address = f"[{host}]" if ":" in host else host

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                print(f"Ask on http://{address}:{listener.getsockname()[1]}/  (Ctrl-C stops)", flush=True)

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                # What hangs in a thread cannot be stopped, and would be waited for without end: by uvicorn, by the
                # pipeline's closing, and by the interpreter. So the process itself ends, whatever it waits for.
                end = Timer(GRACE, _end)
                end.daemon = True
                end.start()
                await super().shutdown(sockets)
                if not self.force_exit:  # after a second Ctrl-C threads may still hang
                    end.cancel()

        server = Server(uvicorn.Config(app, log_level="warning", access_log=False))
        # uvicorn hands a signal on to whoever had it before, when it has stopped.
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(server, "should_exit", True))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    print("stopped", file=sys.stderr)


def _end() -> None:
    print(f"stopped after {GRACE} seconds, with questions unanswered", file=sys.stderr, flush=True)
    os._exit(1)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # now and not when all is loaded: until then another process could have the same port
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return listener
