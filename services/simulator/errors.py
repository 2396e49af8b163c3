"""Errors in the format of Claude's API."""

from typing import Any


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        *,
        error_code: str | None = None,
        retry_after: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Describe the answer.

        Args:
            status: HTTP status.
            error_type: `error.type` of the body.
            message: `error.message` of the body.
            error_code: `error.details.error_code` of the body.
            retry_after: The `retry-after` header, in seconds or as an HTTP date.
            headers: Others that the answer has.
        """
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.error_code = error_code
        self.retry_after = retry_after
        self._headers = headers or {}

    def body(self, request_id: str | None) -> dict[str, Any]:
        """The answer's body."""
        error: dict[str, Any] = {"type": self.error_type, "message": self.message}
        if self.error_code:
            error["details"] = {"error_code": self.error_code}
        return {"type": "error", "error": error, "request_id": request_id}

    @property
    def headers(self) -> dict[str, str]:
        """The answer's own headers."""
        if self.retry_after is None:
            return self._headers
        return self._headers | {"retry-after": self.retry_after}


class InvalidRequestError(ApiError):
    """The request is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "invalid_request_error", message)
