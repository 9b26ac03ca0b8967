"""Bars and the live table: what is drawn on a terminal again and again. The only user of rich."""
