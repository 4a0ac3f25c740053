"""The trainer's commands.

A command imports what only it needs: torch alone takes more than a second.
"""
