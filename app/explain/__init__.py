"""Explanations of scores: the terms of a logit, and what each field gives to it."""
