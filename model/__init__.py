"""The trainer: click logs to a bundle that the service serves."""

from model.threads import bound_spinning

# Every module of this package is imported after this line, and torch with the first that needs it.
bound_spinning()
