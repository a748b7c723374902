"""The number of slots that a pool needs: demand, staffing and the policies that decide.

Pure: time and every measurement are arguments, so that the live optimizer and
the simulator run the very same code.
"""
