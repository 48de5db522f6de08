"""From complete runs to shipped rows, and from rows to intervals, verdicts, tables and figures."""
