"""A server whose forks run `video-vq` without loading PyTorch again, and its client.

    python preloaded.py serve SOCKET                 serve until the standard input is closed
    python -SE preloaded.py run SOCKET PROGRAM ...   run `video-vq` or a Python file in a fork

The program has the client's arguments, working folder, environment and standard streams; the client
ends with its exit status, but signals to the client do not reach it.
"""

import json
import os
import runpy
import select
import socket
import sys
from importlib import import_module

LOADED = (
    *("accelerate", "einops", "scipy.linalg", "torchmetrics", "video_vq.evaluation.evaluate"),
    *("video_vq.stages.sample_clips", "video_vq.training.prior", "video_vq.training.tokenizer"),
)
REQUEST_BYTES = 1 << 20


def serve(path: str) -> int:
    """Fork for each request; a fork returns the exit status of its program."""
    for module in LOADED:
        import_module(module)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                if os.fork() == 0:
                    return in_a_fork(connection)
                os._exit(0)
            connection.close()
            os.wait()
    return 0


def in_a_fork(connection: socket.socket) -> int:
    """Fork once more to run the requested program there, and send its exit status here."""
    message, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 3)
    request = json.loads(message)
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(str(status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    program, *arguments = request["command"]
    sys.argv[:] = [program, *arguments]
    if os.path.basename(program) == "video-vq":
        from video_vq.cli import main

        return main(arguments)
    sys.path.insert(0, os.path.dirname(program))
    runpy.run_path(program, run_name="__main__")
    return 0


def run(path: str, command: list[str]) -> int:
    """Run a command in a fork of the server, and return its exit status."""
    request = {"command": command, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        return int(connection.recv(64))


if __name__ == "__main__":
    job, place, *words = sys.argv[1:]
    sys.exit(serve(place) if job == "serve" else run(place, words))
