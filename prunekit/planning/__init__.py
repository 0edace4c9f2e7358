"""From scores and a budget to what stays: pure arithmetic."""
