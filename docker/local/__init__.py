"""What `make` needs on the host: secrets, local mode, and stacks for the tests.

Run as `PYTHONPATH=docker python -m local`. It is no part of the image and imports nothing of the services.
"""
