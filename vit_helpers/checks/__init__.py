"""The exercises' checkers, one module a lesson: `from vit_helpers.checks import lesson_05 as checks`."""

from .base import Exercise, exercise

__all__ = ["Exercise", "exercise"]
