from __future__ import annotations

from distgan.launch.channel import Channel


def test_failures_in_a_row_end_a_run_and_a_new_checkpoint_begins_a_new_row():
    channel = Channel(max_failures=2)
    assert channel.begin(0) == 0
    for start, step in enumerate((0, 20, 20, 20), start=1):
        channel.lose([], {0: "cut off"})
        assert not channel.failed()
        assert channel.begin(step) == start
    channel.lose([], {0: "cut off"})
    kind, text = channel.news(stop=False).failure
    assert kind == "RunError"
    assert "3 times in a row" in text
    assert "after step 20" in text
    assert channel.news(stop=False).given_up


def test_no_number_of_failures_ends_a_run_that_shall_not_end():
    channel = Channel(max_failures=-1)
    for _ in range(100):
        channel.begin(0)
        channel.lose([0], {0: "died"})
    assert not channel.failed()


def test_who_died_is_said_and_not_who_could_not_go_on_without_them():
    channel = Channel(max_failures=9)
    channel.arrive(1, "two")
    channel.lose([1], {0: "Connection reset", 1: "died"})
    channel.lose([], {0: "Connection reset"})
    died, broken = channel.news(stop=False).lines
    assert died.startswith("worker 1 on two has died: ")
    assert "reset" not in died
    assert broken.startswith("worker 0: Connection reset: ")
    assert channel.news(stop=False).lines == []


def test_a_machine_that_is_taken_away_is_said_once():
    channel = Channel(max_failures=9)
    channel.arrive(1, "two")
    channel.take([1])
    channel.lose([0], {0: "died", 1: "a machine is being taken away"})
    channel.lose([0], {0: "died"})
    taken, died = channel.news(stop=False).lines
    assert taken.startswith("worker 1 on two: its machine is being taken away: ")
    assert died.startswith("worker 0 has died: ")


def test_after_an_error_that_no_start_would_mend_nothing_is_started():
    channel = Channel(max_failures=9)
    channel.fail("InputError", "no such shards")
    channel.fail("RunError", "a consequence")
    channel.lose([], {0: "no such shards"})
    news = channel.news(stop=True)
    assert news == ([], ("InputError", "no such shards"), True)
    assert channel.leaving()


def test_workers_make_room_for_others_without_that_being_the_run_s_end():
    channel = Channel(max_failures=9)
    channel.begin(0)
    assert not channel.leaving()
    channel.resize()
    assert channel.leaving()
    assert channel.resizing()
    assert not channel.left()
    assert not channel.resizing()
    channel.resize()
    channel.begin(20)  # those of before were ended before they could leave
    assert not channel.leaving()
    channel.news(stop=True)
    assert channel.leaving()
    assert channel.left()
    assert not channel.resizing()
