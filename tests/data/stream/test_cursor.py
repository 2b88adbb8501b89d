"""Where the next iteration starts if a prefetcher reached the end before the last commit."""

from clipkit.data.stream.cursor import Cursor


def at(position, epoch=0):
    return {"epoch": epoch, "position": position, "dropped": 0}


def read_ahead(num_commits):
    """An epoch of three batches: all are handed out, and the end is seen, before the commits."""
    cursor = Cursor()
    cursor.begin()
    for position in (4, 8, 12):
        cursor.hand_out(at(position))
    cursor.finish((1, 0))
    for position in (4, 8, 12)[:num_commits]:
        cursor.commit(at(position))
    return cursor


def test_batches_that_were_not_committed_come_again():
    cursor = read_ahead(2)
    cursor.abandon()
    assert cursor.next == cursor.committed == (0, 8)
    cursor.begin()
    cursor.hand_out(at(12))
    cursor.finish((1, 0))
    cursor.commit(at(12))
    assert cursor.next == cursor.committed == (1, 0)


def test_a_complete_epoch_has_ended():
    cursor = read_ahead(3)
    cursor.abandon()
    assert cursor.next == cursor.committed == (1, 0)


def test_an_iteration_without_commits_has_ended():
    cursor = read_ahead(0)
    cursor.abandon()
    assert (cursor.next, cursor.committed) == ((1, 0), (0, 0))
