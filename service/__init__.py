"""Claude Code Proxy: relays Messages API requests along a chain of routes and keeps an exact ledger of them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from service.proxy import ClaudeCodeProxy, ProviderConfig, ProxyConfig, SubscriptionConfig

__all__ = ["ClaudeCodeProxy", "ProviderConfig", "ProxyConfig", "SubscriptionConfig"]


def __getattr__(name: str) -> Any:
    """Load the programmatic interface on first use: the workers import this package for its ledger alone."""
    if name in __all__:
        from service import proxy

        return getattr(proxy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
