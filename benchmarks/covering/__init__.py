"""What coverage.py is made of: names, one worker process for each, and the page."""
