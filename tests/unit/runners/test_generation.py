"""A generation keeps nobody alive once it is closed."""

import weakref

from trtllm_openai.runners import Generation


class Listener:
    def __call__(self) -> None:
        raise AssertionError("nothing came")


def test_closed_generation_lets_go_of_its_listener() -> None:
    aborted: list[str] = []
    generation = Generation(["a", "b"], aborted.extend)
    listener = Listener()
    gone = weakref.ref(listener)
    generation.listener = listener
    del listener
    generation.close()
    generation.close()
    assert sorted(aborted) == ["a", "b"]
    assert gone() is None
