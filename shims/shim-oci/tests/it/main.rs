//! Real containers with runc. They need root and runc; without, each test says so and does nothing.
mod containers;
mod restarts;
mod world;
