//! Connections to the database: how accounts log in, what a server may answer, and how connections
//! end.

mod accounts;
mod answers;
mod ends;
