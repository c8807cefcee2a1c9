"""The objectives, one module each, and the pieces they share; `transforms.objectives.registry` knows them all.

To add one, add a module here with a class of parameters (`schemas.objectives.ObjectiveParameters`) and a class
derived from `transforms.objectives.base.Objective`. Nothing else names it.
"""
