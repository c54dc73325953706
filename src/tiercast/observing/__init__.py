"""What a manager shows of itself: figures, health, alerts, the fleet, and how it is measured."""
