"""Surveys: many scenes, one map."""
