//! Decides about one rotation from a snapshot of its row.
//!
//! Pure: the store takes the snapshot under the row's lock, and then carries out the decision.
//! Times are compared by the database, whose clock wrote them, so the snapshot contains only the
//! results.

/// The row that was found for a token, read under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSnapshot {
    /// The row still contains the token, by the column's collation.
    pub token_matches: bool,
    /// `revoked_at` is set: the token was used, or revoked.
    pub revoked: bool,
    /// `refresh_token_expires_at` is not in the future, or not set.
    pub expired: bool,
    /// The row's user exists.
    pub user_exists: bool,
}

/// What happens to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Insert its successor and revoke it.
    Rotate,
    /// The row contains another token; the presented one may be in another row.
    NotThisRow,
    /// 403, unless it is replayed; the row stays unchanged. Used, revoked, expired and unknown
    /// tokens look the same to a client.
    Used,
    /// 403; the row stays unchanged.
    Expired,
    /// 403; the row stays unchanged.
    UserNotFound,
}

/// Decides about a token by its row.
pub fn decide(row: &RowSnapshot) -> Decision {
    match row {
        RowSnapshot { token_matches: false, .. } => Decision::NotThisRow,
        RowSnapshot { revoked: true, .. } => Decision::Used,
        RowSnapshot { expired: true, .. } => Decision::Expired,
        // Like the plugin, which looks for the user only after the token has proved valid.
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
