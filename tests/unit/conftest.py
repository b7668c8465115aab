# SPDX-License-Identifier: Apache-2.0
"""Properties are tried without a look at the clock: on a busy or emulated CPU slow is no finding."""

from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
