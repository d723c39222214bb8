"""The table of costs is written and read whole, and a part that is damaged is left out and named."""

import numpy as np
import pandas as pd

from gradbench.storage.costs import read_costs, write_costs


def row(program, index, seconds=0.5, device="cpu", **more):
    texts = {"model": "mlp", "regularizer": "gp", "device_name": "a", "gradbench": "0", "torch": "2"}
    numbers = {"round": index, "step_seconds": seconds, "step_ratio": np.nan, "width": 3, "steps": 7}
    return {"step_program": program, "device": device, "measured": "now", **texts, **numbers, **more}


def test_rows_come_back_as_they_were_written_and_measurements_add_up(tmp_path):
    first, second = [row("a", 0, 0.1), row("a", 1, 0.2)], [row("b", 0, 0.3)]
    write_costs(tmp_path, first)
    write_costs(tmp_path, second)
    found, damaged = read_costs(tmp_path)
    assert not damaged
    expected = pd.DataFrame(first + second)
    found = found.sort_values(["step_program", "round"], ignore_index=True)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False)
    write_costs(tmp_path, [row("a", 0, 0.4)])
    found, _ = read_costs(tmp_path)
    assert found.loc[found["step_program"] == "a", "step_seconds"].tolist() == [0.4], (
        "the same programs, anew"
    )


def test_a_folder_without_the_table_has_an_empty_one(tmp_path):
    found, damaged = read_costs(tmp_path)
    assert found.empty
    assert not damaged


def test_pandas_reads_all_parts_as_one_table(tmp_path):
    write_costs(tmp_path, [row("a", 0)])
    write_costs(tmp_path, [row("b", 0, step_ratio=1.5, torch=None)])
    assert len(pd.read_parquet(tmp_path / "costs")) == 2


def test_a_damaged_part_is_left_out_and_named(tmp_path):
    write_costs(tmp_path, [row("a", 0)])
    write_costs(tmp_path, [row("b", 0)])
    torn = min((tmp_path / "costs").iterdir())
    torn.write_bytes(torn.read_bytes()[:-9])
    found, (damaged,) = read_costs(tmp_path)
    assert len(found) == 1
    assert damaged.path == torn
