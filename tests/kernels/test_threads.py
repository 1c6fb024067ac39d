"""Work is divided into rows, all of them, in order; torch's own threads are as they were afterwards."""

import os
import threading

import pytest
import torch

from gossamer.kernels.threads import in_blocks, thread_count, torch_on_all_threads, torch_on_one_thread


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
@pytest.mark.parametrize("block", [None, 3])
def test_every_row_once_and_in_order(threads: int, rows: int, block: int | None):
    blocks = in_blocks(lambda start, stop: list(range(start, stop)), rows, block=block)
    assert [row for part in blocks for row in part] == list(range(rows))


def test_torch_uses_one_thread_on_ours_and_as_many_as_before_elsewhere(threads: int):
    assert set(in_blocks(lambda start, stop: torch.get_num_threads(), 64)) == {1}
    assert torch.get_num_threads() == threads
    with torch_on_one_thread():
        assert torch.get_num_threads() == 1
        assert thread_count() == threads
        in_blocks(lambda start, stop: None, 64)
        with torch_on_one_thread():
            assert thread_count() == threads
        with torch_on_all_threads():
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == thread_count() == threads
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [threads]


def test_an_error_in_a_block_comes_out(threads: int):
    def loop(start: int, stop: int) -> None:
        if start <= 40 < stop:
            raise ZeroDivisionError("row 40")

    with pytest.raises(ZeroDivisionError, match="row 40"):
        in_blocks(loop, 64)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_goes_on_in_a_forked_process():
    in_blocks(lambda start, stop: None, 64)
    child = os.fork()
    if child == 0:
        os._exit(len(in_blocks(lambda start, stop: None, 64, block=32)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
