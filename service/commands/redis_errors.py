"""A command's error when it can't use Redis: what is wrong and its mend, in the words of `check` and the dashboard.

Not here: the check itself (`check_redis`), and finding the words (`redis_client.probe`).
"""

import click

from service.redis_client.probe import failure_words
from service.settings import Settings
from service.settings.redis_url import place_of


def redis_error(error: Exception, settings: Settings, url: str) -> click.ClickException:
    """Return the error that ends the command."""
    more = "" if settings.redis_url else "; or start `ccproxy up`"
    return click.ClickException(f"Redis at {failure_words(error, place_of(url), 'REDIS_URL')}{more}")
