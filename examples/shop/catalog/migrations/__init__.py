"""Changes to the tables of the catalog."""
