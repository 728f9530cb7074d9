"""Z.AI's error codes as its users have met them: status, Anthropic type and wording. Data only; correct it here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ZaiCode:
    status: int
    error_type: str
    message: str


def _account(message: str, status: int = 429) -> ZaiCode:
    return ZaiCode(status, "rate_limit_error", message)


_STAMP = "2026-09-12 00:35:41"

ZAI_CODES: dict[int, ZaiCode] = {
    1000: ZaiCode(401, "authentication_error", "Authentication Failed"),
    1001: ZaiCode(401, "authentication_error", "Header Authentication not received, unable to authenticate"),
    1002: ZaiCode(401, "authentication_error", "Invalid Authentication Token, please confirm the correctness"),
    1003: ZaiCode(401, "authentication_error", "Authentication Token expired, please regenerate/obtain"),
    1004: ZaiCode(401, "authentication_error", "Authentication failed with the provided Authentication Token"),
    1110: _account("Your account is currently inactive", 403),
    1111: _account("Your account does not exist", 403),
    1112: _account("Your account has been locked, please contact customer service to unlock", 403),
    1113: _account("Insufficient balance or no resource package. Please recharge."),
    1120: _account("Unable to successfully access your account, please try again later", 403),
    1121: _account("Your account has irregularities, please contact customer service", 403),
    1210: ZaiCode(400, "invalid_request_error", "Invalid API parameter, please check the documentation."),
    1211: ZaiCode(400, "invalid_request_error", "Unknown Model, please check the model code."),
    1213: ZaiCode(400, "invalid_request_error", "The messages parameter was not properly received."),
    1214: ZaiCode(400, "invalid_request_error", "The max_tokens parameter is illegal."),
    1220: ZaiCode(403, "permission_error", "You do not have permission to access the API"),
    1234: ZaiCode(500, "api_error", "Network error, please contact customer service"),
    1261: ZaiCode(400, "invalid_request_error", "Prompt exceeds max length"),
    1300: ZaiCode(400, "invalid_request_error", "API call blocked by policy"),
    1301: ZaiCode(400, "invalid_request_error", "The system detected potentially unsafe or sensitive content."),
    1302: ZaiCode(429, "rate_limit_error", "Rate limit reached for requests"),
    1303: ZaiCode(429, "rate_limit_error", "High frequency usage of this API, please reduce the frequency"),
    1305: ZaiCode(429, "overloaded_error", "The service may be temporarily overloaded, please try again later"),
    1308: _account(f"Usage limit reached for 5 hour. Your limit will reset at {_STAMP}"),
    1309: _account("Your GLM Coding Plan package has expired and is temporarily unavailable."),
    1310: _account(f"Weekly/Monthly Limit Exhausted. Your limit will reset at {_STAMP}"),
    1311: _account("The current subscription plan does not yet include access to this model"),
    1313: _account("Your account's usage does not comply with the Fair Usage Policy."),
    1316: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
    1317: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
    1318: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
    1319: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
    1320: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
    1321: _account(f"Usage limit reached. Your limit will reset at {_STAMP}"),
}
