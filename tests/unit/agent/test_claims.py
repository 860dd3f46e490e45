import hypothesis.strategies as st
from hypothesis import given

from engineshed.agent.claims import Claims

replicas = st.sampled_from(["a", "b", "c"])
steps = st.lists(st.tuples(replicas, st.frozensets(st.integers(0, 3), max_size=3)))


def test_a_replica_gets_all_of_its_gpus_or_none() -> None:
    claims = Claims()
    assert claims.take("a", [0, 1])

    assert not claims.take("b", [1, 2])
    assert claims.others("b", [1, 2]) == ["a"]
    assert claims.take("c", [2])


def test_taking_again_changes_nothing() -> None:
    claims = Claims()

    assert claims.take("a", [0])
    assert claims.take("a", [0])


def test_what_was_given_back_is_free() -> None:
    claims = Claims()
    claims.take("a", [0])

    claims.give_back("a")

    assert claims.take("b", [0])


@given(steps)
def test_no_gpu_is_ever_held_by_two(taken: list[tuple[str, frozenset[int]]]) -> None:
    claims, held = Claims(), dict[int, str]()
    for replica, gpus in taken:
        if gpus and claims.take(replica, gpus):
            assert all(held.get(gpu, replica) == replica for gpu in gpus)
            held.update(dict.fromkeys(gpus, replica))
        else:
            claims.give_back(replica)
            held = {gpu: holder for gpu, holder in held.items() if holder != replica}
