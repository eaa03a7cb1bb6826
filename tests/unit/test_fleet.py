"""How slots and runners are shared out: by priority, equally, and nothing is moved in vain."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from wtb_ray.fleet import Party, Want, grants, shares, surplus

parties = st.lists(
    st.builds(
        Party,
        batch_id=st.uuids().map(str),
        priority=st.integers(-1, 1),
        pending=st.integers(0, 5),
        cells=st.integers(0, 20),
        running=st.integers(0, 20),
    ),
    max_size=6,
)
wants = st.lists(
    st.builds(
        Want,
        pool=st.tuples(st.sampled_from("abcdef"), st.booleans()),
        project=st.sampled_from("pqr"),
        priority=st.integers(0, 1),
        have=st.integers(0, 6),
        wanted=st.integers(0, 6),
    ),
    max_size=6,
    unique_by=lambda want: want.pool,
)


@given(parties, st.integers(0, 40))
def test_slots_go_to_the_highest_priority_and_there_to_who_has_fewest(
    waiting: list[Party], room: int
) -> None:
    given_ = {share.batch_id: share.count for share in shares(waiting, room)}
    open_ = {p.batch_id: p.pending + p.cells for p in waiting}
    assert sum(given_.values()) == min(room, sum(open_.values()))
    assert all(0 < count <= open_[id] for id, count in given_.items())
    for one in waiting:
        for other in waiting:
            unserved = open_[one.batch_id] - given_.get(one.batch_id, 0)
            if unserved and one.priority > other.priority:
                assert other.batch_id not in given_
            if unserved and one.priority == other.priority and other.batch_id in given_:
                mine = one.running + given_.get(one.batch_id, 0)
                assert other.running + given_[other.batch_id] <= mine + 1


@given(wants, st.integers(0, 20))
def test_runners_go_by_priority_and_to_projects_equally(found: list[Want], most: int) -> None:
    granted = grants(found, most)
    assert sum(granted.values()) == min(most, sum(want.wanted for want in found))
    projects = Counter[tuple[int, str]]()
    for want in found:
        assert granted[want.pool] <= want.wanted
        projects[want.priority, want.project] += granted[want.pool]
    for one in found:
        if granted[one.pool] < one.wanted:
            for other in found:
                if other.priority < one.priority:
                    assert granted[other.pool] == 0


@given(wants, st.integers(0, 20))
def test_runners_are_given_up_only_for_others_and_no_more_than_they_lack(
    found: list[Want], most: int
) -> None:
    granted = grants(found, most)
    given_up = surplus(found, granted, most)
    lacking = sum(max(0, granted[w.pool] - w.have) for w in found)
    spare = max(0, most - sum(w.have for w in found))
    assert sum(given_up.values()) <= max(0, lacking - spare)
    for want in found:
        assert given_up.get(want.pool, 0) <= max(0, want.have - granted[want.pool])


def test_equal_projects_with_many_versions_have_equal_shares() -> None:
    found = [
        Want(pool=(version, False), project=project, priority=0, have=have, wanted=8)
        for version, project, have in (("v1", "p", 4), ("v2", "p", 4), ("w", "q", 0))
    ]
    granted = grants(found, 8)
    assert granted == {("v1", False): 2, ("v2", False): 2, ("w", False): 4}
    assert surplus(found, granted, 8) == {("v1", False): 2, ("v2", False): 2}
