"""Where Django looks for what an app adds to `manage.py`."""
