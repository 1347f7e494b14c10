"""A request that can't be answered as it is."""


class Refusal(Exception):
    """The client's mistake: an HTTP status of the 4xx kind and one sentence that says what to change."""

    def __init__(self, status: int, sentence: str) -> None:
        self.status = status
        super().__init__(sentence)
