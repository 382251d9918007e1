"""What an optimizer is: general linear methods and the operator that both other layers read."""
