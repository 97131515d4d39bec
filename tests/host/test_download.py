import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import traceback
from pathlib import Path

import pytest
from huggingface_hub import constants

from gemma3n_appliance.errors import DownloadError
from gemma3n_appliance.host.download import ensure_model, is_on_disk
from gemma3n_appliance.host.hub import Repository
from gemma3n_appliance.settings import Settings
from tests.fakes.hub import Corrupt, Cut, Denied, FakeHub, LoginPage, RefusalError, Short, Stall, WholeFile
from tests.host.appliance import NEEDED, REPO, ROOT, WEIGHTS, Appliance, checkpoint
from tests.waiting import wait_until

FILES = checkpoint()
MB = 1 << 20


def test_a_download_brings_the_needed_files_and_nothing_else(appliance: Appliance, hub: FakeHub):
    done = appliance.download()
    assert (done.returncode, done.stdout) == (0, f"{REPO} is complete in {appliance.model_dir}\n")
    assert appliance.present() == NEEDED
    assert all((appliance.model_dir / name).read_bytes() == FILES[name] for name in NEEDED)
    assert {name for name in FILES if hub.ranges(name)} == set(NEEDED)
    assert list((appliance.home / "home").iterdir()) == []
    assert all(r.path.startswith(("/api/models/", f"/{REPO}/resolve/", "/cdn/")) for r in hub.requests)


def test_a_second_download_does_not_touch_the_network(complete: Appliance):
    again = complete.download_offline()
    assert (again.returncode, again.stderr) == (0, "")


def test_the_guard_against_the_network_notices_a_first_download(appliance: Appliance):
    assert "the network was touched" in appliance.download_offline().stderr


def test_only_a_lost_file_is_fetched_again(complete: Appliance, hub: FakeHub):
    (complete.model_dir / "config.json").unlink()
    hub.requests.clear()
    assert complete.download().returncode == 0
    assert [r.path.rsplit("/", 1)[1] for r in hub.requests] == ["config.json"]


def test_files_put_there_by_hand_are_kept_when_they_are_right(appliance: Appliance, hub: FakeHub):
    appliance.model_dir.mkdir(parents=True)
    (appliance.model_dir / WEIGHTS).write_bytes(FILES[WEIGHTS])
    (appliance.model_dir / "config.json").write_bytes(FILES["config.json"].swapcase())
    assert appliance.download().returncode == 0
    assert (hub.ranges(WEIGHTS), hub.ranges("config.json")) == ([], [None])
    assert (appliance.model_dir / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection_is_taken_up_where_it_broke(appliance: Appliance, hub: FakeHub, reset: bool):
    # A reset may also lose what the client had not read yet.
    hub.trouble[WEIGHTS].append(Cut(after=2 * MB + 10, reset=reset))
    assert appliance.download_impatiently().returncode == 0
    assert (appliance.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.ranges(WEIGHTS)[0] is None
    if not reset:
        assert hub.ranges(WEIGHTS)[1:] == [f"bytes={2 * MB + 10}-"]


def test_an_answer_that_ends_early_is_taken_up_too(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].extend([Short(after=2 * MB), Short(after=0), Short(after=10)])
    assert appliance.download_impatiently().returncode == 0
    assert (appliance.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert hub.ranges(WEIGHTS)[1:] == [f"bytes={2 * MB + n}-" for n in (0, 0, 10)]


def test_an_absent_hub_is_waited_for_through_minutes(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].extend([Cut(after=MB), *[Cut(after=0)] * 8])
    done = appliance.download_impatiently()
    assert done.returncode == 0
    assert [int(pause) for pause in re.findall(r"trying again in (\d+) s", done.stderr)] == [
        1, 2, 4, 8, 16, 32, 60, 60, 60
    ]  # fmt: skip


def test_a_hub_that_stays_away_ends_the_download_and_the_next_one_continues(
    appliance: Appliance, hub: FakeHub
):
    hub.trouble[WEIGHTS].extend([Cut(after=2 * MB), *[Cut(after=0)] * 9])
    failed = appliance.download_impatiently()
    assert failed.returncode == 1
    assert "check the network and run again; what was fetched so far is kept" in failed.stderr
    assert appliance.partial.stat().st_size == 2 * MB
    assert appliance.download().returncode == 0
    assert hub.ranges(WEIGHTS)[-1] == f"bytes={2 * MB}-"
    assert (appliance.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_killed_download_continues_where_it_was(appliance: Appliance, hub: FakeHub):
    kill_in_mid_file(appliance, hub)
    assert not (appliance.model_dir / WEIGHTS).exists()
    kept = appliance.partial.stat().st_size
    hub.bytes_sent.clear()
    assert appliance.download().returncode == 0
    assert hub.ranges(WEIGHTS) == [None, f"bytes={kept}-"]
    assert hub.bytes_sent == {WEIGHTS: len(FILES[WEIGHTS]) - kept}
    assert (appliance.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert appliance.present() == NEEDED


def test_a_killed_download_keeps_to_its_commit_when_the_branch_moves_on(appliance: Appliance, hub: FakeHub):
    kill_in_mid_file(appliance, hub)
    hub.repos[REPO].commit(checkpoint(seed=1))
    assert appliance.download().returncode == 0
    assert all((appliance.model_dir / name).read_bytes() == FILES[name] for name in NEEDED)


def test_a_server_that_ignores_ranges_does_no_harm(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].extend([Cut(after=2 * MB), WholeFile()])
    done = appliance.download_impatiently()
    assert done.returncode == 0
    assert "corrupt" not in done.stderr
    assert (appliance.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS]


def test_a_login_page_in_the_place_of_the_hub_is_recognised(appliance: Appliance, hub: FakeHub):
    hub.trouble["api"].append(LoginPage())
    failed = appliance.download()
    assert failed.returncode == 1
    assert "is not from the hub: log in to this network" in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_login_page_does_not_replace_what_was_fetched(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].extend([Cut(after=2 * MB), LoginPage()])
    failed = appliance.download_impatiently()
    assert failed.returncode == 1
    assert f"to {WEIGHTS} is not from the hub" in failed.stderr
    assert appliance.partial.stat().st_size == 2 * MB


def test_a_refusal_of_the_file_store_does_not_show_the_link(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].append(Denied())
    failed = appliance.download(HF_TOKEN="")
    assert failed.returncode == 1
    assert failed.stderr.endswith(
        "127.0.0.1 refused (403): run again later; what was fetched so far is kept\n"
    )
    assert "Signature" not in failed.stderr


def test_a_second_process_waits_for_the_first(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].append(Stall(after=MB))
    first = appliance.start()
    assert hub.has_stalled.wait(30)
    second = appliance.start()
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    hub.resume()
    assert [p.communicate(timeout=30) and p.returncode for p in (first, second)] == [0, 0]
    assert hub.ranges(WEIGHTS) == [None]


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
def test_a_file_that_arrives_corrupt_is_named_and_fetched_again(
    appliance: Appliance, hub: FakeHub, name: str
):
    hub.trouble[name].append(Corrupt())
    done = appliance.download()
    assert done.returncode == 0
    assert f"{name} arrived corrupt and was removed; fetching it again" in done.stderr
    assert hub.ranges(name) == [None, None]
    assert (appliance.model_dir / name).read_bytes() == FILES[name]


def test_a_file_that_arrives_corrupt_twice_never_gets_its_name(appliance: Appliance, hub: FakeHub):
    hub.trouble[WEIGHTS].extend([Corrupt(), Corrupt()])
    failed = appliance.download()
    assert failed.returncode == 1
    assert f"{WEIGHTS} of {REPO} arrived corrupt twice" in failed.stderr
    assert appliance.present() == sorted(set(NEEDED) - {WEIGHTS})


def test_a_branch_that_moves_on_is_followed_only_when_asked(complete: Appliance, hub: FakeHub):
    hub.repos[REPO].commit(FILES | {WEIGHTS: FILES[WEIGHTS][::-1]}, revision="v2")
    hub.repos[REPO].revisions["main"] = hub.repos[REPO].revisions["v2"]
    hub.requests.clear()
    complete.download()
    assert hub.requests == []
    assert complete.download(MODEL_REVISION="v2").returncode == 0
    assert (complete.model_dir / WEIGHTS).read_bytes() == FILES[WEIGHTS][::-1]
    assert {name for name in FILES if hub.ranges(name)} == {WEIGHTS}


def test_files_that_a_revision_no_longer_has_go_away(complete: Appliance, hub: FakeHub):
    (complete.model_dir / "notes.txt").write_text("mine")
    commit = hub.repos[REPO].commit({"model.safetensors": b"one", "config.json": b"{}"}, revision="other")
    assert complete.download(MODEL_REVISION=commit).returncode == 0
    assert complete.present() == ["config.json", "model.safetensors", "notes.txt"]


def test_too_little_disk_space_is_found_before_anything_is_fetched(appliance: Appliance, hub: FakeHub):
    hub.repos[REPO].claimed_sizes[WEIGHTS] = 10**15
    failed = appliance.download()
    assert failed.returncode == 1
    assert (
        f"not enough disk space in {appliance.model_dir}: 1000000000 MB are still to be fetched"
        in failed.stderr
    )
    assert not any(hub.ranges(name) for name in FILES)


def test_a_revision_that_does_not_fit_leaves_the_old_one_in_place(complete: Appliance, hub: FakeHub):
    hub.repos[REPO].commit(checkpoint(seed=1), revision="v2")
    hub.repos[REPO].claimed_sizes[WEIGHTS] = 10**15
    assert "not enough disk space" in complete.download(MODEL_REVISION="v2").stderr
    assert complete.download_offline("--check").returncode == 0


def test_disk_space_is_checked_again_when_a_download_continues(complete: Appliance, hub: FakeHub):
    manifest = complete.model_dir / "gemma3n-manifest.json"
    manifest.write_text(manifest.read_text().replace("3000000", str(10**15)))
    failed = complete.download()
    assert failed.returncode == 1
    assert "not enough disk space" in failed.stderr
    assert hub.requests == []


def test_a_disk_that_fills_up_in_mid_download_is_named(complete: Appliance):
    (complete.model_dir / WEIGHTS).unlink()
    complete.partial.symlink_to("/dev/full")
    failed = complete.download()
    assert failed.returncode == 1
    assert f"cannot use {complete.model_dir} (No space left on device): free some space" in failed.stderr


def test_a_directory_that_cannot_be_written_is_named(appliance: Appliance):
    failed = appliance.download(MODELS_DIR="/dev/null")
    assert failed.returncode == 1
    assert "cannot use /dev/null/acme--gemma-3n-tiny" in failed.stderr
    assert "set MODELS_DIR" in failed.stderr


GATED = "https://huggingface.co/acme/gemma-3n-tiny"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param({}, [f"accept its licence on {GATED}", "set HF_TOKEN"], id="no token"),
        pytest.param(
            {"HF_TOKEN": "hf_stranger"}, [f"accept its licence on {GATED}", "no access"], id="not accepted"
        ),
        pytest.param(
            {"HF_TOKEN": "hf_fine"},
            ["HF_TOKEN gives no access", f"accept its licence on {GATED}", "Please enable access to gated"],
            id="a fine-grained token without the right",
        ),
        pytest.param(
            {"HF_TOKEN": "hf_old"},
            ["does not accept HF_TOKEN (401)", 'The hub says: User Access Token "laptop" is expired'],
            id="expired token",
        ),
        pytest.param({"HF_TOKEN": "hf_wrong"}, ["does not accept HF_TOKEN (401)"], id="wrong token"),
        pytest.param(
            {"MODEL_NAME": "acme/nothing"}, ["acme/nothing does not exist", "MODEL_NAME"], id="no repo"
        ),
        pytest.param(
            {"MODEL_NAME": "acme/nothing", "HF_TOKEN": "hf_reader"},
            ["acme/nothing does not exist", "MODEL_NAME"],
            id="no repo, seen with a token",
        ),
        pytest.param({"MODEL_NAME": "no/such/name"}, ["MODEL_NAME=no/such/name"], id="no name"),
        pytest.param({"MODEL_REVISION": "v9"}, ["no revision v9", "MODEL_REVISION"], id="no revision"),
        pytest.param(
            {"HF_ENDPOINT": "http://127.0.0.1:9"}, ["cannot reach http://127.0.0.1:9"], id="no network"
        ),
        pytest.param({"HF_HUB_OFFLINE": "1"}, ["HF_HUB_OFFLINE", "unset it"], id="offline mode"),
    ],
)
def test_a_refusal_says_what_to_do(
    appliance: Appliance, hub: FakeHub, environment: dict[str, str], words: list[str]
):
    hub.repos[REPO].is_gated = True
    hub.repos[REPO].readers = {"hf_reader"}
    hub.valid_tokens = {"hf_reader", "hf_stranger"}
    hub.token_faults = {
        "hf_fine": RefusalError(403, None, "Please enable access to gated repositories"),
        "hf_old": RefusalError(401, None, 'User Access Token "laptop" is expired'),
    }
    failed = appliance.download(**environment)
    assert failed.returncode == 1
    assert [word for word in words if word not in failed.stderr] == []
    assert len(failed.stderr.splitlines()) == 1


def test_a_gated_model_is_downloaded_with_a_token_that_may(appliance: Appliance, hub: FakeHub):
    hub.repos[REPO].is_gated = True
    hub.repos[REPO].readers = hub.valid_tokens = {"hf_reader"}
    done = appliance.download(HF_TOKEN="hf_reader")
    assert done.returncode == 0
    assert (
        "hf_reader"
        not in done.stdout + done.stderr + (appliance.model_dir / "gemma3n-manifest.json").read_text()
    )


def test_a_token_never_shows_when_it_cannot_be_sent(hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    # Settings refuse such a token; this is what stands behind them.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    token = "-".join(["hf", "secret\r"])  # or a traceback would show it as a line of code
    with pytest.raises(DownloadError) as failure:
        Repository(REPO, "main", token).manifest()
    assert "LocalProtocolError" in failure.value.message
    assert "hf-secret" not in "".join(traceback.format_exception(failure.value))


def test_a_token_from_a_file_with_windows_line_ends_is_good(appliance: Appliance, hub: FakeHub):
    hub.repos[REPO].is_gated = True
    hub.repos[REPO].readers = hub.valid_tokens = {"hf_reader"}
    assert appliance.download(HF_TOKEN="hf_reader\r\n").returncode == 0


def test_a_repository_without_safetensors_is_refused(appliance: Appliance, hub: FakeHub):
    hub.repos[REPO].commit({"config.json": b"{}", "gemma-3n-Q4_K_M.gguf": b"GGUF"})
    failed = appliance.download()
    assert failed.returncode == 1
    assert f"{REPO} has no *.safetensors files" in failed.stderr


def test_a_directory_as_model_name_needs_no_download(appliance: Appliance, tmp_path: Path):
    done = appliance.download_offline(MODEL_NAME=str(tmp_path))
    assert done.returncode == 0
    assert "there is nothing to download" in done.stdout


def test_a_journal_gets_plain_lines(appliance: Appliance):
    lines = appliance.download().stderr.splitlines()
    assert lines[-1].startswith(f"Downloading {REPO}: 3.0 of 3.0 MB (100 %), ")
    assert all(line.startswith("Downloading") and line.isprintable() for line in lines)


def test_a_terminal_gets_a_bar(appliance: Appliance):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = appliance.start(stderr=theirs)
    process.communicate(timeout=30)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)
    assert f"\rDownloading {REPO}: 100%" in shown


def test_the_server_sees_whether_a_model_is_on_disk(complete: Appliance):
    settings = complete.settings
    assert is_on_disk(settings)
    assert ensure_model(settings) == complete.model_dir
    assert not is_on_disk(settings.model_copy(update={"model_revision": "v2"}))
    (complete.model_dir / WEIGHTS).write_bytes(FILES[WEIGHTS][1:])
    assert not is_on_disk(settings)
    shutil.rmtree(complete.model_dir)
    assert not is_on_disk(settings)


def test_a_directory_that_cannot_be_read_is_named(
    complete: Appliance, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    manifest = complete.model_dir / "gemma3n-manifest.json"
    manifest.unlink()
    manifest.symlink_to(manifest)  # which root cannot read either
    named = f"cannot use {complete.model_dir} (Too many levels of symbolic links): let this user read"
    assert not is_on_disk(complete.settings)
    assert named in capsys.readouterr().out + caplog.text
    with pytest.raises(DownloadError, match=re.escape(named)):
        ensure_model(complete.settings)
    failed = complete.download("--check")
    assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
    assert named in failed.stderr


def test_a_directory_is_a_model_when_it_has_a_configuration(tmp_path: Path):
    settings = Settings(model_name=str(tmp_path))
    assert not is_on_disk(settings)
    (tmp_path / "config.json").write_text("{}")
    assert is_on_disk(settings)
    assert ensure_model(settings) == tmp_path


def test_a_command_imports_neither_torch_nor_the_hub_before_it_needs_them():
    program = (
        "import sys, gemma3n_appliance.cli; sys.exit({'torch', 'huggingface_hub'} & {*sys.modules} != set())"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def kill_in_mid_file(appliance: Appliance, hub: FakeHub) -> None:
    hub.trouble[WEIGHTS].append(Stall(after=2 * MB + 10))
    process = appliance.start()
    assert hub.has_stalled.wait(30)
    wait_until(lambda: appliance.partial.exists() and appliance.partial.stat().st_size >= 2 * MB)
    process.send_signal(signal.SIGKILL)
    process.communicate()
