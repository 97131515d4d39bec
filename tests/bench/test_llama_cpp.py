"""What is said of llama.cpp, by programs that stand in for its own."""

from pathlib import Path

import pytest

from gemma3n_appliance.bench import checkpoints, compute, llama_cpp
from gemma3n_appliance.bench.checkpoints import Shape

TINY = Shape("tiny", 10, 5, 32, 64, num_heads=2, head_dim=16, table_width=8)
CONVERT = """
import pathlib, sys
directory, _, file, _, kind = sys.argv[1:]
assert {"config.json", "model.safetensors"} <= {path.name for path in pathlib.Path(directory).iterdir()}
pathlib.Path(file).write_text(kind)
"""
BENCH = """#!/bin/sh
echo "$(cat "$2") $*" >>"$0.log"
echo '[{"avg_ns": 48000000}]'
"""


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return path


@pytest.fixture
def built(tmp_path, monkeypatch) -> Path:
    directory = tmp_path / "built"
    program(directory / "llama.cpp/convert_hf_to_gguf.py", CONVERT)
    program(directory / "build/bin/llama-bench", BENCH)
    program(directory / "build/bin/llama-quantize", '#!/bin/sh\necho "$(cat "$2") as $4" >"$3"')
    monkeypatch.setattr(llama_cpp, "BUILT", directory)
    monkeypatch.setattr(llama_cpp, "_PROGRAMS", directory / "build/bin")
    monkeypatch.setattr(llama_cpp, "_MAKE_TOKENIZER", "")
    for module in (compute, llama_cpp):
        monkeypatch.setattr(module, "PROMPT", 32)
    for shape in ("E2B_LIKE", "E4B_LIKE", "MEMORY_BOUND"):
        monkeypatch.setattr(checkpoints, shape, TINY)
    return directory


def test_both_are_asked_for_the_same_in_turns(built, tmp_path):
    (built / "stamp").write_text("")
    rows = list(llama_cpp.rows(tmp_path, 2))
    assert [row.peer for row in rows] == [
        *["llama.cpp, f32"] * 3,
        "llama.cpp, q8_0",
        "llama.cpp, q4_0",
    ]
    assert [row.peers for row in rows] == [[48, 48]] * 2 + [[2, 2]] * 3  # of a step, for a prompt's 48 ms
    assert {len(row.ours) for row in rows} == {2}
    asked = (built / "build/bin/llama-bench.log").read_text().splitlines()
    kinds = [line.split(" -m ")[0] for line in asked]
    assert kinds == [*["f32"] * 9, *["f32 as q8_0"] * 3, *["f32 as q4_0"] * 3]
    assert all("-p 32 -n 0" in line for line in asked[:6])
    assert all(f"-p 0 -n {compute.NUM_STEPS} -d {compute.NUM_FIRST}" in line for line in asked[6:])


def test_where_it_is_not_built_nothing_is_said_of_it(built, tmp_path, capsys):
    assert list(llama_cpp.rows(tmp_path, 1)) == []
    assert "bin/setup-llama-cpp has not built it" in capsys.readouterr().err


def test_what_it_complains_of_is_told(built, tmp_path):
    (built / "stamp").write_text("")
    program(built / "build/bin/llama-bench", "#!/bin/sh\necho 'no such architecture' >&2; exit 1")
    with pytest.raises(RuntimeError, match="llama-bench ended with 1: no such architecture"):
        list(llama_cpp.rows(tmp_path, 1))
