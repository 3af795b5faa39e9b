"""The only formulas for time, energy and traffic: from (operation, chip) to cost, over arrays of points."""
