"""Outcomes to numbers, figures and pages."""
