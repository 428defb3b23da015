"""A hub of models on loopback, and a GPT-2 small enough for it: what the tests of pulling talk to.

It answers as the real one does: what a repository holds at /api/models/NAME/revision/COMMIT, small files
from /NAME/resolve/COMMIT/FILE, and weights through a redirect to a storage host with another address.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import threading
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".h5")  # kept in large-file storage, so named by SHA-256


@dataclass
class Seen:
    """A request, and how many bytes of a file it was given (those on the way when it left included)."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def file(self):
        return self.path.rpartition("/")[2]


@dataclass
class Faults:
    """What goes wrong. Names are those of files."""

    cut: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """The next answers end after so many bytes, and the connection with them."""
    stall: dict[str, int] = field(default_factory=dict)
    """Every answer stops after so many bytes, and nothing more comes until `released` is set."""
    damage: set[str] = field(default_factory=set)
    """A bit is flipped on the way."""
    status: dict[str, int] = field(default_factory=dict)
    """This answer instead of the file."""
    ignore_range: bool = False
    token: str | None = None
    """Needed to see anything."""
    gated: bool = False
    garbage: bytes | None = None
    """The answer to everything: a log-in page for example."""
    no_checksums: bool = False


class LoopbackHub:
    """Repositories by name, each a dict of files; `log` has every request."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults = Faults()
        self.log: list[Seen] = []
        self.released = threading.Event()
        self._servers = [self._serve(_Hub), self._serve(_Storage)]
        self.url, self.storage = (f"http://127.0.0.1:{s.server_address[1]}" for s in self._servers)

    def _serve(self, handler):
        server = _Server(("127.0.0.1", 0), type("Handler", (handler,), {"hub": self}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    def close(self):
        self.released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def commit(self, name):
        """The repository's state as 40 hex digits."""
        parts = [part for name, content in sorted(self.repositories[name].items()) for part in (name.encode(), content)]
        return hashlib.sha1(b"\0".join(parts)).hexdigest()

    def asked(self, file):
        """The requests for a file that were answered with bytes of it."""
        return [seen for seen in self.log if seen.sent and seen.file == file]

    def sent(self, file):
        return sum(seen.sent for seen in self.asked(file))


@contextmanager
def hub_in_use(patch):
    """A hub that is the endpoint of this process and its children, with gpt2 and acme/tiny.

    Args:
        patch: pytest's MonkeyPatch, which is undone by whoever made it.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    from handloom.checkpoints import hub as client

    server = LoopbackHub()
    server.repositories = {"openai-community/gpt2": tiny_gpt2(), "acme/tiny": tiny_gpt2()}
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_ENDPOINT", server.url)
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)  # read when the library was imported
    patch.setattr(constants, "HF_TOKEN_PATH", "no-such-file")
    patch.setattr(client, "PAUSE", 0.001)
    close_session()
    try:
        yield server
    finally:
        close_session()
        server.close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.seen = Seen(self.command, urlsplit(self.path).path, {k.lower(): v for k, v in self.headers.items()})
        self.hub.log.append(self.seen)
        if self.hub.faults.garbage is not None:
            self.reply(200, self.hub.faults.garbage, {"Content-Type": "text/html"})
        else:
            self.answer([unquote(part) for part in self.seen.path.strip("/").split("/")])

    def reply(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, code=None, message=None):
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self.reply(status, b"{}", {name: value for name, value in told.items() if value})

    def send_file(self, name, content, headers=()):
        faults, begin, status = self.hub.faults, 0, 200
        if name in faults.status:
            return self.refuse(faults.status[name])
        wanted = self.headers.get("Range")
        if wanted and not faults.ignore_range:
            begin, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
            if begin >= len(content):
                return self.reply(416, headers={"Content-Range": f"bytes */{len(content)}"})
            headers = {**dict(headers), "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        if name in faults.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.send_response(status)
        for key, value in {**dict(headers), "Content-Length": len(content) - begin}.items():
            self.send_header(key, str(value))
        self.end_headers()
        end = len(content)
        cut = faults.cut[name].pop(0) if faults.cut[name] else None
        stop = cut if cut is not None else faults.stall.get(name)
        if stop is not None:
            end = min(end, begin + stop)
        self.seen.sent = end - begin  # first, so that no client can have what is not counted yet
        self.wfile.write(content[begin:end])
        self.wfile.flush()
        if cut is None and stop is not None:
            self.hub.released.wait(20)
        if end < len(content):
            self.close_connection = True


class _Hub(_Handler):
    def answer(self, parts):
        faults = self.hub.faults
        authorized = faults.token is None or self.headers.get("Authorization") == f"Bearer {faults.token}"
        if parts[:2] == ["api", "models"]:
            name, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
        else:
            name, revision = "/".join(parts[:2]), parts[3]
        if not authorized and "Authorization" in self.headers:
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if not authorized or name not in self.hub.repositories:
            return self.refuse(401, message="Invalid username or password.")  # to those who are not logged in
        commit, files = self.hub.commit(name), self.hub.repositories[name]
        if revision not in ("main", commit):
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if parts[0] == "api":
            return self.describe(name, commit, files)
        if faults.gated:
            return self.refuse(401, "GatedRepo", "Access to this model is restricted.")
        file = "/".join(parts[4:])
        if file not in files:
            return self.refuse(404, "EntryNotFound")
        digest = hashlib.sha256(files[file]).hexdigest()
        if not file.endswith(LARGE):
            return self.send_file(file, files[file], {"X-Repo-Commit": commit, "ETag": f'"{git_id(files[file])}"'})
        return self.reply(
            302,
            headers={
                "Location": f"{self.hub.storage}/{name}/{digest}/{file}",
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": len(files[file]),
            },
        )

    def describe(self, name, commit, files):
        siblings = []
        for file, content in files.items():
            one = {"rfilename": file, "size": len(content), "blobId": git_id(content)}
            if file.endswith(LARGE):
                digest = hashlib.sha256(content).hexdigest()
                one["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            if self.hub.faults.no_checksums:
                one = {"rfilename": file}
            siblings.append(one)
        body = json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        self.reply(200, body, {"Content-Type": "application/json"})


class _Storage(_Handler):
    def answer(self, parts):
        self.send_file(parts[-1], self.hub.repositories["/".join(parts[:2])][parts[-1]])


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@functools.cache
def _tiny():
    """Config, tokenizer and tensors of a GPT-2 of about half a megabyte, with random weights."""
    import tempfile
    from pathlib import Path

    import torch

    from handloom.tokenizer.train import train_bpe

    width, layers, context_length = 64, 2, 32
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_bpe(["the cat sat on the mat, and the hat sat on the cat"], 270)
        tokenizer.save(Path(folder))
        texts = {name: Path(folder, name).read_bytes() for name in ("vocab.json", "merges.txt")}
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "n_embd": width, "n_layer": layers, "n_head": 2, "n_ctx": context_length, "n_positions": context_length,
        "vocab_size": tokenizer.vocab_size, "layer_norm_epsilon": 1e-5,
    }  # fmt: skip
    shapes = {"wte.weight": (tokenizer.vocab_size, width), "wpe.weight": (context_length, width)}
    for layer in range(layers):
        for name, shape in {
            "ln_1": (width,), "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "ln_2": (width,),
            "mlp.c_fc": (width, 4 * width), "mlp.c_proj": (4 * width, width),
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}.weight"], shapes[f"h.{layer}.{name}.bias"] = shape, shape[-1:]
    shapes["ln_f.weight"] = shapes["ln_f.bias"] = (width,)
    generator = torch.Generator().manual_seed(5)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {"config.json": json.dumps(config).encode(), **texts}, tensors


def tiny_gpt2(form="safetensors"):
    """A repository like GPT-2's, as {file: bytes}. `form`: safetensors, sharded, bin, or sharded-bin."""
    import io

    import torch
    from safetensors.torch import save

    small, tensors = _tiny()

    def pickled(some):
        out = io.BytesIO()
        torch.save(some, out)
        return out.getvalue()

    extension = "bin" if form.endswith("bin") else "safetensors"
    stem = "pytorch_model" if extension == "bin" else "model"
    write = pickled if extension == "bin" else save
    if not form.startswith("sharded"):
        return {**small, f"{stem}.{extension}": write(tensors)}
    names = sorted(tensors)
    halves = {
        f"{stem}-{number:05}-of-00002.{extension}": some
        for number, some in enumerate((names[::2], names[1::2]), start=1)
    }
    index = {"metadata": {}, "weight_map": {name: file for file, some in halves.items() for name in some}}
    shards = {file: write({name: tensors[name] for name in some}) for file, some in halves.items()}
    return {**small, f"{stem}.{extension}.index.json": json.dumps(index).encode(), **shards}
