//! Refreshes are native only where they are proven to be what WordPress would have done.

mod operator;
