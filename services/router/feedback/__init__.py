"""Feedback: who may judge which answer, and what is told of the verdicts."""

from services.router.feedback.intake import FeedbackIntake

__all__ = ["FeedbackIntake"]
