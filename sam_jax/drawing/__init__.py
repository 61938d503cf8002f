"""The style of all pictures: colours, words, and the sheet they are drawn on.

Every picture of the package is made with these three modules. They need
matplotlib, and import it when they are imported.
"""
