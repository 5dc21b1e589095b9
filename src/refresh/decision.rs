//! The rules of one rotation, over a snapshot of the row.
//!
//! Pure: the snapshot is taken under the row's lock by the store, which then does what is decided
//! here. Times are compared by the database, whose clock wrote them, so the snapshot holds only
//! their outcome.

/// What the database says about the row that was found for a token, read under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSnapshot {
    /// The row still holds the token, as the column's collation compares.
    pub token_matches: bool,
    /// `revoked_at` is set: the token was used, or revoked.
    pub revoked: bool,
    /// `refresh_token_expires_at` is not in the future, or not set.
    pub expired: bool,
    /// The row's user exists.
    pub user_exists: bool,
}

/// What becomes of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Insert its successor and revoke it.
    Rotate,
    /// The row is another token's; the one presented may be in another row.
    NotThisRow,
    /// 403, unless it is replayed; the row stays as it is. Used, revoked, expired and unknown tokens look the same to a client.
    Used,
    /// 403; the row stays as it is.
    Expired,
    /// 403; the row stays as it is.
    UserNotFound,
}

/// Decides about a token, given the row it was found in.
pub fn decide(row: &RowSnapshot) -> Decision {
    match row {
        RowSnapshot { token_matches: false, .. } => Decision::NotThisRow,
        RowSnapshot { revoked: true, .. } => Decision::Used,
        RowSnapshot { expired: true, .. } => Decision::Expired,
        // The plugin looks for the user only once the token is known to be good.
        RowSnapshot { user_exists: false, .. } => Decision::UserNotFound,
        RowSnapshot { .. } => Decision::Rotate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_live_token_of_a_user_rotates() {
        let mut rotations = 0;
        for bits in 0..16_u8 {
            let bit = |place: u8| bits >> place & 1 == 1;
            let row = RowSnapshot { token_matches: bit(0), revoked: bit(1), expired: bit(2), user_exists: bit(3) };
            let decision = decide(&row);
            let live = bit(0) && !bit(1) && !bit(2);
            assert_eq!(matches!(decision, Decision::Rotate | Decision::UserNotFound), live, "{row:?}");
            assert_eq!(decision == Decision::UserNotFound, live && !bit(3), "{row:?}");
            assert_eq!(decision == Decision::NotThisRow, !bit(0), "{row:?}");
            assert_eq!(decision == Decision::Used, bit(0) && bit(1), "{row:?}");
            rotations += u8::from(decision == Decision::Rotate);
        }
        assert_eq!(rotations, 1);
    }
}
