"""Detection quality beside the anchors of the field: seeds, paired tests, mean ranks and costs, written as a page."""
