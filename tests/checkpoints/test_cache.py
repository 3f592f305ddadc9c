"""Official names and folders as models: downloads, the cache, two processes at once, killed ones, and no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.utils import ComponentDevice
from official_form import pack, write_checkpoint
from token_ids import pair_tokens, passage_tokens

from rocketqa_haystack import CrossEncoder, DualEncoder, RocketQADocumentEmbedder, RocketQARanker, RocketQATextEmbedder
from rocketqa_haystack.checkpoints import registry
from rocketqa_haystack.checkpoints.cache import _fingerprint, archive_path, cache_folder, converted_path, model_folder
from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS
from rocketqa_haystack.cli.main import main
from rocketqa_haystack.data import Passage, TrainingGroup
from rocketqa_haystack.encoders import ModelError
from trainers import CrossEncoderTrainer, DualEncoderTrainer, TrainingSettings

NAMES = {"v1_marco_de": "dual_encoder", "v1_marco_ce": "cross_encoder", "v2_marco_ce": "cross_encoder"}


class Server:
    """Serves archives over http, with ranges unless told otherwise, and can break off."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.requests: list[tuple[str, str | None]] = []
        self.serves_ranges = True
        self.breaks_after: int | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        data = self.files.get(request.path.lstrip("/"))
        if data is None:
            request.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.serves_ranges else 0
        if start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        end = None if self.breaks_after is None else start + self.breaks_after
        request.wfile.write(data[start:end])


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small checkpoints under official names, packed as the official ones are."""
    folder = tmp_path_factory.mktemp("archives")
    packed = {}
    for name, kind in NAMES.items():
        config = {"joint_training": 1} if name.startswith("v2") else {}
        write_checkpoint(folder / name, kind, config=config)
        packed[f"{name}.tar.gz"] = pack(folder / name, folder / f"{name}.tar.gz").read_bytes()
    return packed


@pytest.fixture
def server(archives: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the archives in the place of the official one, and an empty cache."""
    server = Server(dict(archives))
    monkeypatch.setenv("ROCKETQA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "BASE_URL", server.url)
    for name in NAMES:
        md5 = hashlib.md5(archives[f"{name}.tar.gz"]).hexdigest()
        monkeypatch.setitem(OFFICIAL_MODELS, name, replace(OFFICIAL_MODELS[name], md5=md5))
    yield server
    server.close()


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_registry_has_the_thirteen_models_over_https() -> None:
    assert len(OFFICIAL_MODELS) == 13
    assert len({model.md5 for model in OFFICIAL_MODELS.values()}) == 13
    for name, model in OFFICIAL_MODELS.items():
        assert model.url == f"https://rocketqa.bj.bcebos.com/RocketQAModels/{name}.tar.gz"
        assert model.kind == ("dual encoder" if "_de" in name else "cross-encoder")
        assert len(bytes.fromhex(model.md5)) == 16


def test_a_name_is_downloaded_and_converted_once_and_works_in_every_component(server: Server) -> None:
    device = ComponentDevice.from_str("cpu")
    document = Document(content="sonne", meta={"title": "mond"}, score=0.5)
    dual = DualEncoder.from_pretrained("v1_marco_de", device="cpu", dtype="float32")
    cross = CrossEncoder.from_pretrained("v1_marco_ce", device="cpu", dtype="float32")
    requests = list(server.requests)
    assert [path for path, _ in requests] == ["/v1_marco_de.tar.gz", "/v1_marco_ce.tar.gz"]

    options: dict[str, Any] = {"device": device, "dtype": "float32", "local_files_only": True}
    vector = RocketQATextEmbedder(model="v1_marco_de", **options).run("wald")["embedding"]
    np.testing.assert_array_equal(np.float32(vector), dual.encode_queries(["wald"])[0])
    embedded = RocketQADocumentEmbedder(model="v1_marco_de", progress_bar=False, **options).run([document])
    expected = dual.encode_passages([Passage("sonne", "mond")])[0]
    np.testing.assert_array_equal(np.float32(embedded["documents"][0].embedding), expected)
    ranked = RocketQARanker(model="v1_marco_ce", **options).run("wald", [document])["documents"]
    assert np.float32(ranked[0].score) == cross.score([("wald", Passage("sonne", "mond"))])[0]
    assert server.requests == requests
    assert not list(cache_folder().rglob("*.part"))
    assert not list(cache_folder().rglob(".*"))


@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_starts_from_a_name_and_its_folder_keeps_the_rules(name: str, server: Server, tmp_path: Path) -> None:
    groups = [
        TrainingGroup("1", "sonne mond", ("a",), (Passage("stern fluss", "berg"),), ("b",), (Passage("wald"),)),
        TrainingGroup("2", "wind feld", ("c",), (Passage("haus", "meer"),), ("d",), (Passage("licht"),)),
    ]
    settings = TrainingSettings(epochs=1, batch_size=2, show_progress=False)
    long = Passage("wald " * 40, "berg " * 40)
    if name.endswith("_de"):
        trainer: Any = DualEncoderTrainer(name, groups, settings=settings)
        trainer.train(tmp_path / "tuned")
        start = DualEncoder.from_pretrained(name, device="cpu", dtype="float32")
        tuned = DualEncoder.from_pretrained(tmp_path / "tuned", device="cpu", dtype="float32")
        before, after = start.encode_passages([long]), tuned.encode_passages([long])
    else:
        trainer = CrossEncoderTrainer(name, groups, settings=settings, negatives=1)
        trainer.train(tmp_path / "tuned")
        start = CrossEncoder.from_pretrained(name, device="cpu", dtype="float32")
        tuned = CrossEncoder.from_pretrained(tmp_path / "tuned", device="cpu", dtype="float32")
        before, after = start.score([("sonne", long)]), tuned.score([("sonne", long)])
        assert type(tuned.model.activation_fn) is type(start.model.activation_fn)
    assert tuned.settings == start.settings
    assert np.abs(before - after).max() > 0
    # The rules of the official toolkit travel with the tokenizer.
    rows = [
        passage_tokens(e, [long]) if isinstance(e, DualEncoder) else pair_tokens(e, [("sonne", long)])
        for e in (start, tuned)
    ]
    assert rows[0] == rows[1]


def test_a_folder_in_the_official_form_is_converted_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROCKETQA_CACHE", str(tmp_path / "cache"))
    variables = write_checkpoint(tmp_path / "own", "dual_encoder", config={"share_parameter": 1})
    first = DualEncoder.from_pretrained(tmp_path / "own", device="cpu", dtype="float32").encode_queries(["mond"])
    folder = model_folder(str(tmp_path / "own"))
    assert folder == model_folder(str(tmp_path / "own"))
    shutil.rmtree(tmp_path / "own")
    write_checkpoint(tmp_path / "own", "dual_encoder", seed=1, config={"share_parameter": 1})
    second = DualEncoder.from_pretrained(tmp_path / "own", device="cpu", dtype="float32").encode_queries(["mond"])
    assert np.abs(first - second).max() > 1e-3
    assert folder != model_folder(str(tmp_path / "own"))
    assert variables
    with pytest.raises(ModelError, match="own holds a dual encoder, not a cross-encoder"):
        CrossEncoder.from_pretrained(tmp_path / "own")


@pytest.mark.parametrize("key", ["model_conf_path", "model_vocab_path"])
def test_a_folder_is_another_when_a_file_that_it_names_changes(key: str, tmp_path: Path) -> None:
    config = {"model_conf_path": "of/model.conf", "model_vocab_path": "of/vocabulary"}
    write_checkpoint(tmp_path / "own", "cross_encoder", config=config)
    (tmp_path / "own" / "of").mkdir()
    (tmp_path / "own" / "model_conf.json").rename(tmp_path / "own" / "of" / "model.conf")
    (tmp_path / "own" / "vocab.txt").rename(tmp_path / "own" / "of" / "vocabulary")
    before = _fingerprint(tmp_path / "own")
    assert before == _fingerprint(tmp_path / "own")
    with (tmp_path / "own" / config[key]).open("a") as file:
        file.write("\n")
    assert before != _fingerprint(tmp_path / "own")


def test_a_model_of_the_other_kind_is_refused_before_the_download(server: Server) -> None:
    with pytest.raises(ModelError, match="v1_marco_ce holds a cross-encoder, not a dual encoder"):
        DualEncoder.from_pretrained("v1_marco_ce")
    with pytest.raises(ModelError, match="v2_nq_de holds a dual encoder, not a cross-encoder"):
        RocketQARanker(model="v2_nq_de").warm_up()
    assert server.requests == []


def test_a_folder_of_an_official_name_comes_before_the_model(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "v1_marco_de", "dual_encoder", seed=5)
    DualEncoder.from_pretrained("v1_marco_de", device="cpu")
    assert server.requests == []


def test_without_a_network_one_sentence_says_where_to_put_the_archive(
    server: Server, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = archive_path(OFFICIAL_MODELS["v1_marco_ce"])
    with pytest.raises(ModelError, match=r"local_files_only is set\. Put its archive by hand at .*v1_marco_ce.tar.gz"):
        CrossEncoder.from_pretrained("v1_marco_ce", local_files_only=True)
    assert server.requests == []
    server.close()
    with pytest.raises(ModelError, match=r"cannot be downloaded: .* Put its archive by hand at") as error:
        CrossEncoder.from_pretrained("v1_marco_ce")
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)

    place.write_bytes(archives["v2_marco_ce.tar.gz"])
    with pytest.raises(ModelError, match=r"has the md5 sum .* remove it and try again"):
        CrossEncoder.from_pretrained("v1_marco_ce", local_files_only=True)
    place.write_bytes(archives["v1_marco_ce.tar.gz"])
    assert main(["models"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "v1_marco_ce" in line] == ["archive"]
    CrossEncoder.from_pretrained("v1_marco_ce", local_files_only=True)
    assert main(["models"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "v1_marco_ce" in line] == ["ready"]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "strange://127.0.0.1:9"])
def test_a_proxy_that_does_not_work_ends_in_the_same_sentence(
    proxy: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ModelError, match=r"cannot be downloaded: .* Put its archive by hand at") as error:
        CrossEncoder.from_pretrained("v1_marco_ce")
    assert "\n" not in str(error.value)
    assert server.requests == []


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "/" + "n" * 300])
def test_a_name_that_can_be_no_path_is_told(name: str) -> None:
    with pytest.raises(ModelError):
        CrossEncoder.from_pretrained(name, local_files_only=True)


def fetched() -> Path:
    folder = model_folder("v1_marco_ce")
    assert folder is not None
    return folder


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, archives: dict[str, bytes]) -> None:
    size = len(archives["v1_marco_ce.tar.gz"])
    server.breaks_after = size // 3
    fetched()
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert starts[0] == 0
    assert starts[1:] == sorted(starts[1:])
    assert 0 < starts[1] <= size // 3 + 1
    assert len(starts) >= 3


def test_a_part_left_by_a_killed_download_is_continued(server: Server, archives: dict[str, bytes]) -> None:
    part = archive_path(OFFICIAL_MODELS["v1_marco_ce"]).with_name("v1_marco_ce.tar.gz.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(archives["v1_marco_ce.tar.gz"][:1000])
    fetched()
    assert server.requests == [("/v1_marco_ce.tar.gz", "bytes=1000-")]
    assert not part.exists()


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, archives: dict[str, bytes]) -> None:
    server.serves_ranges = False
    part = archive_path(OFFICIAL_MODELS["v1_marco_ce"]).with_name("v1_marco_ce.tar.gz.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    fetched()


@pytest.mark.parametrize("part", [None, b"x" * 1000, "longer"])
def test_a_wrong_checksum_is_refused_and_nothing_is_left(
    part: bytes | str | None, server: Server, archives: dict[str, bytes]
) -> None:
    path = archive_path(OFFICIAL_MODELS["v1_marco_ce"])
    if part is None:
        server.files["v1_marco_ce.tar.gz"] = archives["v2_marco_ce.tar.gz"]
    else:
        path.parent.mkdir(parents=True)
        whole = archives["v1_marco_ce.tar.gz"] + b"more"
        path.with_name(f"{path.name}.part").write_bytes(whole if isinstance(part, str) else part)
    with pytest.raises(CheckpointError, match="is not the official archive and was removed"):
        fetched()
    assert [name for name in files_of(cache_folder()) if not name.endswith(".lock")] == []
    server.files.update(archives)
    fetched()  # the next attempt begins anew


def test_what_the_server_refuses_is_told(server: Server) -> None:
    del server.files["v1_marco_ce.tar.gz"]
    with pytest.raises(CheckpointError, match="404"):
        fetched()
    assert [name for name in files_of(cache_folder()) if not name.endswith(".lock")] == []


def test_a_broken_archive_leaves_nothing_but_itself(
    server: Server, archives: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = archives["v1_marco_ce.tar.gz"][:2000]
    server.files["v1_marco_ce.tar.gz"] = broken
    model = replace(OFFICIAL_MODELS["v1_marco_ce"], md5=hashlib.md5(broken).hexdigest())
    monkeypatch.setitem(OFFICIAL_MODELS, "v1_marco_ce", model)
    with pytest.raises(CheckpointError, match=r"v1_marco_ce\.tar\.gz cannot be extracted"):
        fetched()
    assert [name for name in files_of(cache_folder()) if not name.endswith(".lock")] == ["archives/v1_marco_ce.tar.gz"]


def test_a_cache_that_cannot_be_written_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROCKETQA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CheckpointError, match="ROCKETQA_CACHE names another folder"):
        fetched()


def start_process(server: Server, before: str = "") -> subprocess.Popen[str]:
    """Another process that wants v1_marco_ce from the same cache."""
    md5 = OFFICIAL_MODELS["v1_marco_ce"].md5
    script = f"""
        from dataclasses import replace
        from rocketqa_haystack.checkpoints import registry
        registry.BASE_URL = {server.url!r}
        models = registry.OFFICIAL_MODELS
        models["v1_marco_ce"] = replace(models["v1_marco_ce"], md5={md5!r})
        {before}
        from rocketqa_haystack.checkpoints.cache import model_folder
        print(model_folder("v1_marco_ce"))
        import sys
        print("converted" if "rocketqa_haystack.checkpoints.convert" in sys.modules else "waited")
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_two_processes_do_the_work_once(server: Server) -> None:
    processes = [start_process(server) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    folder = converted_path(OFFICIAL_MODELS["v1_marco_ce"])
    assert sorted(out.split() for out, _ in outputs) == [[str(folder), "converted"], [str(folder), "waited"]], outputs
    assert len(server.requests) == 1
    assert (folder / "model.safetensors").is_file()


def test_a_killed_process_leaves_nothing_that_the_next_takes_for_whole(server: Server) -> None:
    killed = start_process(
        server,
        before="import os, signal, rocketqa_haystack.checkpoints.convert as c; "
        "c.read_dense = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    )
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    folder = converted_path(OFFICIAL_MODELS["v1_marco_ce"])
    assert not folder.exists()
    assert list(folder.parent.iterdir()) != []  # what it was working on
    assert fetched() == folder
    assert [path.name for path in folder.parent.iterdir()] == ["v1_marco_ce"]
    assert len(server.requests) == 1


def test_the_command_converts_names_archives_and_folders(
    server: Server, archives: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "v1_marco_de", "."]) == 2
    assert "without a name" in capsys.readouterr().err
    assert server.requests == []
    write_checkpoint(tmp_path / "own", "cross_encoder")
    (tmp_path / "a.tar.gz").write_bytes(archives["v2_marco_ce.tar.gz"])
    for source in ("v1_marco_de", str(tmp_path / "own"), str(tmp_path / "a.tar.gz")):
        output = tmp_path / "models" / Path(source).name
        assert main(["convert", source, str(output)]) == 0
        assert (output / "modules.json").is_file()
        assert main(["convert", source, str(output)]) == 2
        assert "not an empty folder" in capsys.readouterr().err
    for source, message in (
        ("v9_marco_de", "`rocketqa models` lists those"),
        (str(tmp_path / "models"), "config.json is not there"),
        (str(tmp_path / "own" / "vocab.txt"), "cannot be extracted"),
        (str(tmp_path / "models" / "own"), "model_type must be one of"),
    ):
        assert main(["convert", source, str(tmp_path / "output")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "output").exists()
