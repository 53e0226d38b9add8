"""Every performance claim as a command. Each measures us beside a reference in one run and reports medians and ratios."""
