"""What a killed process left behind goes, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import CPU, cells

from gradbench import atomic
from gradbench.atomic import TEMPORARY, process_place, write_atomically
from gradbench.launchers.worker import checkpoint_of
from gradbench.storage import cleanup
from gradbench.storage.cleanup import OLD, remove_stale_checkpoints, remove_stale_files


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_unfinished_files_of_dead_processes_go_and_those_of_other_hosts_once_they_are_old(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here, elsewhere = f"{process_place()}-0123abcd", "00000000-0123abcd"
    goes = [
        f".experiment.yaml.{here}.{dead.pid}.tmp",
        f"cells/.a.parquet.{here}.{dead.pid}.tmp",
        f"report/figures/.answer.png.{here}.{dead.pid}.tmp",
        f"cells/.old.parquet.{elsewhere}.{os.getpid()}.tmp",
        "arrays/.old.npz.77.tmp",
    ]
    stays = [
        f"cells/.a.parquet.{here}.{os.getpid()}.tmp",
        f"cells/.a.parquet.{elsewhere}.{dead.pid}.tmp",
        f"cells/.a.parquet.{dead.pid}.tmp",
        f"cells/notes.{here}.{dead.pid}.tmp",
        "cells/.old-hidden.tmp",
        "cells/done.parquet",
        "checkpoints/half.pt.damaged-1",
    ]
    for name in [*goes, *stays]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        if "old" in name:
            os.utime(path, (0, time.time() - OLD - 60))
    remove_stale_files(tmp_path)
    assert files(tmp_path) == set(stays)


@pytest.fixture
def names(tmp_path):
    """Return a function that says under which name a file is written."""

    def name():
        seen = []
        write_atomically(tmp_path / "x", lambda file: seen.append(Path(file.name).name))
        return seen[0]

    return name


def test_no_two_writers_share_a_name_also_with_equal_process_ids(names, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    first, second = TEMPORARY.fullmatch(names()), TEMPORARY.fullmatch(names())
    assert first["place"] == second["place"]
    assert first[0] != second[0]


@pytest.mark.parametrize("differs", ["host", "namespace"])
def test_another_host_or_container_is_another_place(differs, monkeypatch):
    here = process_place()
    if differs == "host":
        monkeypatch.setattr(atomic.platform, "node", lambda: "elsewhere")
    else:
        monkeypatch.setattr(os, "readlink", lambda _path: "pid:[1]")
    assert atomic.process_place.__wrapped__() != here


def test_checkpoints_that_no_stack_will_use_go(tmp_path):
    """Of stacks some of whose cells are finished: these never train again in a stack of just those cells."""
    stack = cells("mlp", "none", seed=[0, 1, 2, 3], steps=2)
    for members in (stack[:2], stack[2:], stack[1:3]):
        checkpoint_of(members, tmp_path, CPU, lambda: False, print).save({"step": 1})
    (tmp_path / "checkpoints/half.pt").write_bytes(b"no checkpoint")
    kept = checkpoint_of(stack[2:], tmp_path, CPU, lambda: False, print).path
    remove_stale_checkpoints(tmp_path, {stack[1].id: "completed", stack[3].id: "failed"})
    assert files(tmp_path) == {f"checkpoints/{kept.name}", "checkpoints/half.pt"}


@pytest.mark.parametrize("header", [b"", b"[]", b"{}", b'{"fingerprint": "[]"}', b"[" * 10**5, b"\xff"])
def test_a_checkpoint_of_any_content_is_left(tmp_path, header):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/x.pt").write_bytes(header)
    assert cleanup.checkpoint_cells(tmp_path / "checkpoints/x.pt") == []
