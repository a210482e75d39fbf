"""Error response of the gateway: status and sentence."""


class HTTPError(Exception):
    """Error to send in place of a response.

    retry_after_s: seconds until a retry makes sense; None if a retry does not help. close: the connection, after the response.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None, close: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.close = close
