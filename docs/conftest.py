"""What pytest runs here are the examples of the pages; the rest makes the site and its figures."""

collect_ignore_glob = ["conf.py", "extensions/*.py", "figures/*.py"]
